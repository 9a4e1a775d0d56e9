"""What is wrong with a storage, each finding with what mends it; slow and thorough, where status is quick."""
