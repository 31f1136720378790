// The page's one file, as it stands, in the program's read-only data.
    .section .rodata
    .global ashlar_page_begin
    .global ashlar_page_end
ashlar_page_begin:
    .incbin "api/page/index.html"
ashlar_page_end:
    .byte 0
    .section .note.GNU-stack,"",@progbits
