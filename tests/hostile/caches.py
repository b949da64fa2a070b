def cache_cases(honest, count, seed): return []
