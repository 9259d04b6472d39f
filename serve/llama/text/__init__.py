"""Rendering and tokenizing in separate processes, which may be slow, grow or crash without harming the server.

Templates and texts are untrusted, and neither Jinja nor llama.cpp's tokenizer can be interrupted. One parent
(`python -m serve.llama.text`) loads the vocabulary and the template once and forks workers that share its memory. Each
worker handles one request at a time, under a timer and a memory limit. A worker that overruns or crashes is replaced;
only its request fails.
"""
