"""The custom resources as pydantic models: what a manifest may say, what it means to the core, and how its status reads."""
