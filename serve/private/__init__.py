"""What libraries don't document and serve needs: one module a library."""
