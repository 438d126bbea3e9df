output "lake" {
  description = "The lake's location, for FIRN_LAKE."
  value       = module.bucket.lake
}

output "query_url" {
  description = "The endpoint's URL."
  value       = module.query.url
}

output "functions" {
  description = "Names of the functions."
  value = {
    query     = module.query.name
    worker    = module.worker.name
    compactor = module.compactor.name
  }
}

output "api_url" {
  description = "The API Gateway's URL; null where there is none."
  value       = module.query.api_url
}

output "catalog" {
  description = "The catalog, for FIRN_CATALOG."
  value       = module.catalog.url
}

output "log_url" {
  description = "The log service's URL within the VPC; null where there is none."
  value       = one(module.wal[*].url)
}

output "alarms" {
  description = "ARN of the topic that alarms go to."
  value       = aws_sns_topic.alarms.arn
}
