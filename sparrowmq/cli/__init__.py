"""The command line: thin click commands over config, client, local and the roles."""
