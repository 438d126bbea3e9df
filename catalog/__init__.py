"""What exists and where: namespaces, tables, tokens, statements; one KV contract, several backends."""
