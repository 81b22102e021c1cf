"""Train an experiment: by Lightning (`lightning`) or by the Learner (`homemade`)."""
