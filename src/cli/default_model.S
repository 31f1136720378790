/* The model inside the program, as it lies in assets/model. */
        .section .rodata.ashlar_default_model, "a", @progbits
        .balign 4096
        .globl ashlar_default_model_begin
        .globl ashlar_default_model_end
ashlar_default_model_begin:
        .incbin ASHLAR_DEFAULT_MODEL
ashlar_default_model_end:
        .byte 0
        .section .note.GNU-stack, "", @progbits
