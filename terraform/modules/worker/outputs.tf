output "name" {
  description = "Name of the function."
  value       = module.function.name
}

output "arn" {
  description = "ARN of the function."
  value       = module.function.arn
}

output "reserved" {
  description = "Whether it has a reserve of the account's concurrency."
  value       = var.reserved_concurrency >= 0
}

output "role_name" {
  description = "Name of its role."
  value       = module.function.role_name
}

output "log_group" {
  description = "Name of its log group."
  value       = module.function.log_group
}

output "policy" {
  description = "What its role may do, as JSON."
  value       = module.function.policy
}

output "environment" {
  description = "Its environment variables."
  value       = local.environment
  sensitive   = true
}
