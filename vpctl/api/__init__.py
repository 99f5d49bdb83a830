"""The engine for paid, rate-limited servers: `engine` sends when `pace` and `budget` allow it, `chat` asks and reads.

The server is --base-url, OPENAI_BASE_URL, or OpenAI's own; the key is OPENAI_API_KEY. The key is never an option and
never an output.
"""
