# One Lambda function with a role, a log group and alarms of its own; query, worker and compactor are made of it.

data "aws_partition" "here" {}
data "aws_region" "here" {}
data "aws_caller_identity" "me" {}

locals {
  partition = data.aws_partition.here.partition
  account   = data.aws_caller_identity.me.account_id
  log_group = "/aws/lambda/${var.name}"
  log_arn   = "arn:${local.partition}:logs:${data.aws_region.here.name}:${local.account}:log-group:${local.log_group}"

  own_statements = concat(
    [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${local.log_arn}:*"]
    }],
    # X-Ray and the network interfaces of a VPC know no resources to limit these to.
    !var.tracing ? [] : [{
      Sid      = "WriteTraces"
      Effect   = "Allow"
      Action   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
      Resource = ["*"]
    }],
    var.network == null ? [] : [{
      Sid    = "JoinNetwork"
      Effect = "Allow"
      Action = [
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
      ]
      Resource = ["*"]
    }],
  )
}

resource "aws_iam_role" "this" {
  name        = var.name
  description = var.description
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name   = "own"
  role   = aws_iam_role.this.name
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.own_statements, var.statements) })
}

resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_lambda_function" "this" {
  function_name                  = var.name
  description                    = var.description
  role                           = aws_iam_role.this.arn
  package_type                   = var.image_uri != null ? "Image" : "Zip"
  image_uri                      = var.image_uri
  s3_bucket                      = var.image_uri != null ? null : var.package.bucket
  s3_key                         = var.image_uri != null ? null : var.package.key
  source_code_hash               = var.image_uri != null ? null : var.package.sha256
  runtime                        = var.image_uri != null ? null : var.package.runtime
  handler                        = var.image_uri != null ? null : var.handler
  architectures                  = [var.architecture]
  memory_size                    = var.memory_mb
  timeout                        = var.timeout_s
  reserved_concurrent_executions = var.reserved_concurrency
  kms_key_arn                    = var.kms_key_arn
  tags                           = var.tags

  dynamic "image_config" {
    for_each = var.image_uri != null ? [var.handler] : []
    content {
      command = [image_config.value]
    }
  }

  environment {
    variables = var.environment
  }

  ephemeral_storage {
    size = var.spill_mb
  }

  tracing_config {
    mode = var.tracing ? "Active" : "PassThrough"
  }

  logging_config {
    log_format = "Text" # our lines are JSON already
    log_group  = aws_cloudwatch_log_group.this.name
  }

  dynamic "vpc_config" {
    for_each = var.network == null ? [] : [var.network]
    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  lifecycle {
    precondition {
      condition     = (var.image_uri == null) != (var.package == null)
      error_message = "A function is an image or a zip: set image_uri or package, and not both."
    }
  }

  depends_on = [aws_iam_role_policy.this]
}

resource "aws_lambda_function_event_invoke_config" "this" {
  function_name                = aws_lambda_function.this.function_name
  maximum_retry_attempts       = var.retries
  maximum_event_age_in_seconds = 60
}
