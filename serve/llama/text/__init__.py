"""Rendering and tokenizing in processes of their own, which may be slow, grow or crash without harm to the server.

A template and a text come from strangers, and neither Jinja nor llama.cpp's tokenizer can be stopped from outside. One
parent (`python -m serve.llama.text`) loads the vocabulary and the template once, and forks workers that share its
memory. Each takes one request at a time, under a timer and a memory limit; one that overruns or crashes is replaced,
and its request alone fails.
"""
