output "statements" {
  description = "IAM policy statements."
  value       = concat(local.read, local.write, local.allowed, local.key)
}

output "lake" {
  description = "The lake's location, as FIRN_LAKE has it."
  value       = var.prefix == "" ? "s3://${var.bucket}" : "s3://${var.bucket}/${var.prefix}"
}
