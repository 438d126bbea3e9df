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
