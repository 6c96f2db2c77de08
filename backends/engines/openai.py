"""Any server that speaks OpenAI's API: attached only, and nothing is taken for granted.

No `/health` and no `/metrics` take features away, never readiness.
"""

from backends.engines.profile import CannotLaunch, Engine, LaunchCommand, LaunchContext, LaunchProfile


def launch(profile: LaunchProfile, context: LaunchContext) -> LaunchCommand:
    raise CannotLaunch(
        'engine = "openai" runs elsewhere: give [[models.replicas]] with a url, not [models.launch]'
    )


ENGINE = Engine(name="openai", launch=launch)
