"""What came out of it: metrics, tables and reports. Never imports distill."""
