"""Code shared by the three stages: settings, records, chat templates, llama.cpp, the exam. No torch, no FastAPI."""
