"""The synchronous client. All but `waiting` is made of `luthier.client.aio`."""
