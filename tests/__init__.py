"""The tests; STYLE.md says what goes where, CONTRIBUTING.md how to run them."""
