"""The statistics: intervals, paired comparisons, power, sequential limits. Arrays in, numbers out."""
