# A login shell (a terminal, an SSH session) starts with Debian's PATH: this puts the environment's programs back.
PATH=/opt/ds01/bin:$PATH:$HOME/.local/bin
