output "instance_id" {
  description = "Id of the machine."
  value       = aws_instance.this.id
}

output "volume_id" {
  description = "Id of the volume."
  value       = aws_ebs_volume.this.id
}

output "mount" {
  description = "Where the volume is mounted."
  value       = var.mount
}
