"""What a training will take here, before it begins: costs measured, times foretold, a budget spent well."""
