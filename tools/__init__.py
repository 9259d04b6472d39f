"""Small programs that setup and the stages run as child processes."""
