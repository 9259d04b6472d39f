"""What the three stages share: settings, records, chat templates, llama.cpp, the exam. Never torch, never FastAPI."""
