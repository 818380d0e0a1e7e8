"""The OpenAI API's requests and responses as plain data: what `Llama.create_*` and a server read and write."""
