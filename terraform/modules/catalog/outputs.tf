output "url" {
  description = "The catalog, as FIRN_CATALOG has it."
  value       = "${local.scheme}://${join(",", local.endpoints)}${var.keyspace == "" ? "" : "/${var.keyspace}"}"
}

output "containers" {
  description = "The members' container definitions, by name."
  value       = { for name, member in module.member : name => member.container }
}
