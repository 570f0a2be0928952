"""What other tools' default rules would have done on the same counters. Pure: numpy and the standard library."""
