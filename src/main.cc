// The front door: names the command and hands it the rest.
int main() { return 0; }
