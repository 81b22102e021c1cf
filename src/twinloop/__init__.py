"""The same experiment in two training loops: Lightning's Trainer and a homemade Learner."""
