"""What a task hands to the loop, and the parts that several tasks make it of."""
