// Replicate
