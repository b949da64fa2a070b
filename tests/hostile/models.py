def model_cases(honest, count, seed, worker):
    return []
