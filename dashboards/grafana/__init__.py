"""Dashboards as code: ``boards`` says what is shown, ``build`` writes Grafana's JSON beside it."""
