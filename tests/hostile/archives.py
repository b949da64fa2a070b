def archive_cases(honest, count, seed): return []
