output "url" {
  description = "Where others reach the log; they find it in the catalog and need no setting."
  value       = local.url
}

output "security_group_id" {
  description = "Security group of the task."
  value       = module.task.security_group_id
}

output "policy" {
  description = "What the task may do, as JSON."
  value       = module.task.policy
}

output "container" {
  description = "The container's definition."
  value       = module.task.container
}

output "egress_ports" {
  description = "Ports that the task reaches."
  value       = module.task.egress_ports
}
