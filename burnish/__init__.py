"""What the three stages share: settings, records, chat renderer, llama.cpp room, exam. Never torch, never FastAPI."""
