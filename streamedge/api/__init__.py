"""CloudFront's API, so that its clients (boto3, aws, Terraform, Ansible) manage this edge."""
