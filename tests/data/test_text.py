import json

from prompt_distillation.data.text import encodable


def test_half_a_character_is_replaced_and_told():
    text = json.loads('"a\\ud83db \\ude00"')
    assert encodable(text) == ("a\ufffdb \ufffd", True)
    assert encodable("whole \U0001f600 caf\u00e9") == ("whole \U0001f600 caf\u00e9", False)
