# Two roles: ECS starts the task with one; what runs in the task has the other.

locals {
  # A role is for this account's tasks only: nobody else's service may assume it on their behalf.
  assume = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })

  ecr_image = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.", var.image))
  ecr_name  = local.ecr_image ? split("@", split(":", join("/", slice(split("/", var.image), 1, length(split("/", var.image)))))[0])[0] : ""

  execution = concat(
    [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${local.log_arn}:*"]
    }],
    !local.ecr_image ? [] : [
      {
        # ECR's log-in knows no resource to limit it to.
        Sid      = "LogInToRegistry"
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"]
      },
      {
        Sid      = "PullImage"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = ["arn:${local.partition}:ecr:${data.aws_region.here.name}:${split(".", var.image)[0]}:repository/${local.ecr_name}"]
      },
    ],
    length(local.secret_arns.secretsmanager) == 0 ? [] : [{
      Sid      = "ReadSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.secret_arns.secretsmanager
    }],
    length(local.secret_arns.ssm) == 0 ? [] : [{
      Sid      = "ReadParameters"
      Effect   = "Allow"
      Action   = ["ssm:GetParameters"]
      Resource = local.secret_arns.ssm
    }],
    var.secrets_kms_key_arn == null ? [] : [{
      Sid      = "DecryptSecrets"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = [var.secrets_kms_key_arn]
    }],
  )
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-start"
  description        = "Starts ${var.name}"
  assume_role_policy = local.assume
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  name   = "own"
  role   = aws_iam_role.execution.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.execution })
}

resource "aws_iam_role" "task" {
  name               = "${var.name}-task"
  description        = "What ${var.name} may do"
  assume_role_policy = local.assume
  tags               = var.tags
}

resource "aws_iam_role_policy" "task" {
  count = var.has_statements ? 1 : 0

  name   = "own"
  role   = aws_iam_role.task.name
  policy = jsonencode({ Version = "2012-10-17", Statement = var.statements })
}
