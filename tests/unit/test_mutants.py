"""The mutants still fit the code; ``make soak`` tries them."""

import pytest

from tests.mutants import MUTANTS, ROOT, passes


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_the_code(name: str) -> None:
    mutant = MUTANTS[name]
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1
    assert (ROOT / mutant.tests).is_file()
    assert name in (ROOT / "tests" / "mutants.md").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS.values()}))
def test_without_a_mutant_the_tests_pass(tests: str) -> None:
    assert passes(tests)


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str) -> None:
    assert not passes(MUTANTS[name].tests, MUTANTS[name])
