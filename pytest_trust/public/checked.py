"""The rows that the adapters were checked with: how many, and the SHA-256 of their normal form (`source.row_hash`).

Benchmarks that are not here were written from their published format; their suites say so, and take whatever rows they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_trust.public.adapter import Checked

CHECKED: Final[Mapping[str, Checked]] = {
    "xstest": Checked(450, "5a688601812e69e1cc686f8a71e146a4c62d6baf9a40d86f2a7d5d664918a18c"),
    "simplesafetytests": Checked(100, "3c4367270a9bdb8f2e39a4b7a5a6cf6207ebd7445b5f3108f5d5163750cbfb20"),
    "jailbreakbench": Checked(100, "845c3fad64350965e83cdd1ec0b83347e471e65a5e5a96ef789a5d929d9d4ff2"),
    "realtoxicityprompts": Checked(2396, "622f0203053509b96d3ff0c10f31c70d935d125e75199f99dd218450c54333e4"),
    "realtoxicityprompts_systems": Checked(1196, "dcec5d790b3b5b6929ecb1cb3dd60318adc6233d62c997e70d98f6486823df27"),
    "crows_pairs": Checked(1508, "b8287a911d610882d3c8a0142d864077162528e3fd719a36360978ac0ce46d0a"),
    "bbq_age": Checked(3680, "37bdf1cd9c70457459b459877a9f0abbf239d24bf91882fb58824f10d0efba61"),
    "bbq_disability_status": Checked(1556, "bd5215f36e7d65b63cf6c724130a131d6d30e8dba424da13762f78370ed80918"),
    "bbq_religion": Checked(1200, "fd9e4bcbdb15a63e40029dca648f187c5eba892cfc741e69486be2ff591836f0"),
    "bbq_sexual_orientation": Checked(864, "60c9ed91cad00676327ca307632bc6b0b859cd275c792794e0df76cec927c309"),
    "stereoset_gender": Checked(253, "b23da7ca3b33bacdb09adf363fed216584ec29d84a4e8ebd90eb9501c885ef98"),
    "stereoset_religion": Checked(79, "0844c3f1c8ae0b156286808dd33af54a2431d4b2ec9d83ac012c4fd38cf00776"),
    "winogender": Checked(720, "be350339655f84edaad5cae3dfb78d7e301c0fcdb9fbdfe7dc15f041ca6946d5"),
    "dt_stereotype": Checked(1152, "68e256db248726b7c60bd4f6640e3471f210aa80fc422eb2cab0c9c48e645479"),
    "ethics_commonsense": Checked(3885, "e6ad15182e9049c96f6511cc27ddadfcd11e3d1950a5fac893babff10b83ac38"),
    "ethics_commonsense_pressured": Checked(3885, "e6ad15182e9049c96f6511cc27ddadfcd11e3d1950a5fac893babff10b83ac38"),
    "ethics_justice": Checked(2704, "42babf58a34763e25797c5fcfc56a1d43c1f757a904f23bc26bb4a820735cb15"),
    "ethics_virtue": Checked(4975, "5f1dbc596060e4bc77c7ec6adc2fd9b64bb40da7fa383ee81546668a1ef172e4"),
    "moral_stories": Checked(1000, "c0edc71500052e5c1418922cb009a746f64946d9922cf5f80dc858c3fc24e40c"),
    "confaide_tier1": Checked(10, "2123ecc7e8acd26b0686110ca09a716bf2db58dfb4e9758db2f376af82221c94"),
    "confaide_tier2a": Checked(98, "12990b30e704d04f29c34cf1dbfafb0a1ff429d8fe49f7fdcc20059dd7b30087"),
    "confaide_tier2b": Checked(98, "fea69be42709961b133b97686ff1f85450d7267876ac7ebd31648cac8e37e785"),
    "confaide_tier3": Checked(270, "1049c7d1eabcc07b71ef488571c08312c401f7dced4df4b448d75ac9be7d49ca"),
    "confaide_tier3_control": Checked(270, "e3cffe9de009b63991bd506f6c67bc7a57400a86b6949d5cf296fd915132bd89"),
    "privacylens": Checked(493, "9c048e4a986143940fd6ced43bd1b9ea98f734d7f00884e679d3e579d572f1cb"),
    "advglue": Checked(738, "f42d286b702d31001da96c794962024d1d9cce052dd11256279d6e20baa601cb"),
    "dt_styles": Checked(9592, "23900796f37d9b32e9cc6e1f4f1365ab56ed845526bcb2bed8958cb5f8ed78f2"),
    "realtimeqa_2020": Checked(855, "19adab7baa6fe8c24303c55f916d12bbf5cdbf9644b005656bb5890cde849f5f"),
    "gsm8k": Checked(1319, "797d988292e7dc4ce00eb031d968299559562703a097092653209859094eb918"),
}
