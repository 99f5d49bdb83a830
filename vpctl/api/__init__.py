"""The client for paid, rate-limited servers: `engine` sends when `pace` and `budget` allow it, `chat` asks and reads.

The server is --base-url, OPENAI_BASE_URL, or OpenAI's own. The key is OPENAI_API_KEY. It is never an option and never
printed or written.
"""
