output "host" {
  description = "DNS name of the task."
  value       = local.host
}

output "service" {
  description = "Name of the service."
  value       = aws_ecs_service.this.name
}

output "security_group_id" {
  description = "Security group of the task."
  value       = aws_security_group.this.id
}

output "policy" {
  description = "What the task may do, as JSON; null: nothing."
  value       = one(aws_iam_role_policy.task[*].policy)
}

output "start_policy" {
  description = "What ECS may do to start it, as JSON."
  value       = aws_iam_role_policy.execution.policy
}

output "container" {
  description = "The container's definition."
  value       = local.container
}

output "egress_ports" {
  description = "Ports that the task reaches."
  value       = [for rule in aws_vpc_security_group_egress_rule.out : rule.from_port]
}
