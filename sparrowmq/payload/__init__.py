"""Functions, arguments, results and failures as bytes. Only the client and the task process read them."""
