locals {
  alarm_actions = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]

  counted = merge(
    { errors = { metric = "Errors", text = "Invocations fail or run out of time." } },
    var.alarm_on_throttles ? { throttles = { metric = "Throttles", text = "Invocations are refused: the reserved concurrency or the account's is used up." } } : {},
  )
}

resource "aws_cloudwatch_metric_alarm" "counted" {
  for_each = local.counted

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.text
  namespace           = "AWS/Lambda"
  metric_name         = each.value.metric
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = "Sum"
  period              = var.alarm_period_s
  evaluation_periods  = 5
  datapoints_to_alarm = 2
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "duration" {
  alarm_name          = "${var.name}-duration-p99"
  alarm_description   = "One invocation in a hundred comes near to its time limit."
  namespace           = "AWS/Lambda"
  metric_name         = "Duration"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  extended_statistic  = "p99"
  period              = max(300, var.alarm_period_s)
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  threshold           = var.timeout_s * 1000 * 0.8
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags
}
