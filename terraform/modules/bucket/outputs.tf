output "name" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.id
}

output "arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.this.arn
}

output "lake" {
  description = "The lake's location, as FIRN_LAKE has it."
  value       = local.folder == "" ? "s3://${var.name}" : "s3://${var.name}/${trimsuffix(local.folder, "/")}"
}
