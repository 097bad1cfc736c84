"""The client role: bootstrap, circuit pool, onion connections, SOCKS proxy, Python API (asyncio)."""
