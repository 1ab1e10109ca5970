import pytest

from pgseg_mm.text import PROMPT_TEMPLATES, get_templates


def test_named_sets_hold_as_many_templates_as_they_say():
    assert get_templates('simple') == ('a photo of a {}.',)
    assert len(get_templates('subset7')) == 7
    assert len(get_templates('openai80')) == 80
    assert len(get_templates('tcl')) == 9
    differing = set(get_templates('tcl')) - set(get_templates('subset7'))
    assert differing == {'a bad photo of a {}.', 'a photo of many {}.', 'a photo of {}s.'}


@pytest.mark.parametrize('name', sorted(PROMPT_TEMPLATES))
def test_every_named_template_is_filled_with_the_word(name):
    for template in get_templates(name):
        assert template.count('{}') == 1
        assert 'red car' in template.format('red car')


def test_own_templates_are_taken_as_they_are():
    assert get_templates(['a painting of a {}']) == ('a painting of a {}',)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown template set 'openai'.*openai80.*simple"):
        get_templates('openai')


def test_a_template_without_a_place_for_the_word_is_refused():
    with pytest.raises(ValueError, match="Template 1, 'a photo', has no '{}'"):
        get_templates(['a {}', 'a photo'])
    with pytest.raises(ValueError, match="Template 0, 'a {{}} photo', has no '{}'"):
        get_templates(['a {{}} photo'])
    assert get_templates(['a {{{}}}'])[0].format('dog') == 'a {dog}'


@pytest.mark.parametrize(
    'template',
    [
        '{} and {}',
        '{} in {place}',
        '{} {',
        'a {.x}',
        'a {:>1500000000}',
        'a {!r}',
        'a {:{}}',
    ],
)
def test_a_template_with_other_braces_is_refused(template):
    with pytest.raises(ValueError, match="must hold one '{}'"):
        get_templates([template])


def test_no_template_at_all_is_refused():
    with pytest.raises(ValueError, match='No prompt template'):
        get_templates([])


@pytest.mark.parametrize(
    'template', [None, 3, 'a {} ' + 'x' * 10**4], ids=['none', 'number', 'long']
)
def test_what_is_no_template_is_refused(template):
    with pytest.raises(ValueError, match='Template 1 is .*of type .*expected a text'):
        get_templates(['a {}', template])


def test_templates_have_a_limit():
    with pytest.raises(ValueError, match='There are 2000 prompt templates; give 1000 at most'):
        get_templates(['a {}'] * 2000)
