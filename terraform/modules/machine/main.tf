# A machine of an ECS cluster with a volume that outlives it: what is fsynced must still be there after a replacement.

data "aws_partition" "here" {}

data "aws_ssm_parameter" "ami" {
  name = var.ami_parameter
}

locals {
  # The volume is attached after the machine started. A file system is made only on a volume that has none.
  user_data = <<-EOT
    #!/bin/bash
    set -euo pipefail
    volume=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${replace(aws_ebs_volume.this.id, "-", "")}
    until [ -e "$volume" ]; do sleep 1; done
    blkid "$volume" || mkfs.xfs "$volume"
    mkdir -p ${var.mount}
    echo "$volume ${var.mount} xfs defaults,nofail,noatime 0 2" >> /etc/fstab
    mount ${var.mount}
    chown ${var.uid}:${var.uid} ${var.mount}
    cat >> /etc/ecs/ecs.config <<CONFIG
    ECS_CLUSTER=${var.cluster}
    ECS_INSTANCE_ATTRIBUTES={"firnline":"${var.label}"}
    ECS_ENABLE_TASK_IAM_ROLE=true
    ECS_AWSVPC_BLOCK_IMDS=true
    CONFIG
  EOT
}

resource "aws_iam_role" "this" {
  name = "${var.name}-machine"
  tags = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "ecs" {
  role       = aws_iam_role.this.name
  policy_arn = "arn:${data.aws_partition.here.partition}:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
}

resource "aws_iam_instance_profile" "this" {
  name = "${var.name}-machine"
  role = aws_iam_role.this.name
  tags = var.tags
}

resource "aws_security_group" "this" {
  name        = "${var.name}-machine"
  description = "Firnline's machine: nothing comes in, HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = var.tags

  egress {
    description = "ECS, ECR and CloudWatch"
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_ebs_volume" "this" {
  availability_zone = var.availability_zone
  size              = var.volume_gb
  type              = "gp3"
  encrypted         = true
  kms_key_id        = var.kms_key_arn
  tags              = merge(var.tags, { Name = var.name })
}

resource "aws_instance" "this" {
  ami                         = data.aws_ssm_parameter.ami.value
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = [aws_security_group.this.id]
  iam_instance_profile        = aws_iam_instance_profile.this.name
  associate_public_ip_address = false
  ebs_optimized               = true
  monitoring                  = true
  user_data                   = local.user_data
  user_data_replace_on_change = true
  tags                        = merge(var.tags, { Name = var.name })

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted  = true
    kms_key_id = var.kms_key_arn
  }

  lifecycle {
    ignore_changes = [ami] # a new image is taken by `terraform apply -replace`, when you choose
  }
}

resource "aws_volume_attachment" "this" {
  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.this.id
  instance_id                    = aws_instance.this.id
  stop_instance_before_detaching = true
}
