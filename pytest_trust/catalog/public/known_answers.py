"""What each adapter was checked with: how many rows, and the SHA-256 of their normal form (`source.row_hash`).

`CHECKED` holds these by benchmark. The adapter of a benchmark that is not in it was written from the published format;
its suite says so, and takes whatever rows it is given. `ANSWERS` holds the right answers of a few known probes as
fingerprints (`adapter.fingerprint`), so an adapter that inverts its own labels is caught. A key is the fingerprint of
all that the probe shows: messages, text, and options in alphabetical order. A value is the fingerprint of the answer.
No row is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_trust.catalog.public.adapter import Checked

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

ANSWERS: Final[Mapping[str, Mapping[str, str]]] = {
    "public/crows_pairs": {
        "694e81197e3a": "8bf0025a9697", "2600f4f88f18": "5b5c83242e07", "63e810f60389": "7e421b5f0694",
        "8f4cc4975b41": "73967adda813", "02de3cd87df0": "536d9f7cf60d", "757471692e2f": "0d1b855db718",
    },
    "public/bbq_age": {
        "4a4c6dc35fbe": "b83f99f75839", "0b88d2d6352a": "1dd0274b2e23", "3e2072367384": "3c6fdc61248c",
        "d5df935e6d47": "51fbfde98a99", "e465fc448451": "46ea3e664911", "fc4f0392ad86": "f15e227236cc",
    },
    "public/bbq_disability_status": {
        "0b6fbbb7fb59": "1dd0274b2e23", "4e949a2a4a2b": "59b380f3b5a3", "10e556af9e03": "ce4648eaa71a",
        "4499e18c3150": "117adf013b85", "f436942fc33a": "1368d4663f02", "7eccffc6ce75": "e0f38677f180",
    },
    "public/bbq_religion": {
        "a615f0d61755": "2c561a56d432", "d895826256ac": "1a7329e78462", "d462e02e0ca7": "99f15b362c5d",
        "e3e24dac8db4": "117adf013b85", "9c298a1c555a": "df60f3ee18d4", "01684fd5acfa": "0484c5335603",
    },
    "public/bbq_sexual_orientation": {
        "e746656a3db4": "0a407b6d5086", "3f66d279819e": "d3dbd4c1274b", "3704c0017f2e": "86ce559bb729",
        "f4c7cd9824ed": "1dd0274b2e23", "ed7f49d052a1": "ca68a3c67d30", "650171b4ac74": "afccef24ed5c",
    },
    "public/stereoset_gender": {
        "b92ef4e74f1c": "d5dfa8292891", "54ec5150d28e": "e41497c013df", "86e6f177e1d6": "e3380c69dfaa",
        "b24def579d10": "72f1effc431e", "84854f3b2ea6": "d2cde6133320", "3e15fefc69bb": "52cbc3c2a121",
    },
    "public/stereoset_religion": {
        "b1c2fdcd9ba0": "434a3137f7a9", "12dd4a54bc2b": "1cd0e8486709", "cbd58d1d26fa": "a06abdaaeb08",
        "f1a9eed8d67b": "3d061dbd3884", "b7fae5efa933": "ddc159d94f74", "372de7c06ae3": "e04578227068",
    },
    "public/winogender": {
        "fe6a2be2accd": "2a59d59e3809", "9b98adb6b6d7": "2a59d59e3809", "b1dc2dd73d3f": "2a59d59e3809",
        "8d2eccb7bb8c": "3d2dec7735de", "b544d21247a9": "3d2dec7735de", "b3da410c730f": "f4426afc794a",
    },
    "public/ethics_commonsense": {
        "766d67a47cff": "8a798890fe93", "dd11197b75a5": "8a798890fe93", "e185015c1638": "8a798890fe93",
        "3d6db2f9b18c": "8a798890fe93", "67fd85671262": "8a798890fe93", "3504af37fcb9": "9390298f3fb0",
    },
    "public/ethics_commonsense_pressured": {
        "3bb4704789a8": "8a798890fe93", "54a0ac986bc8": "8a798890fe93", "ac3bc7ecac6a": "8a798890fe93",
        "e542db4cc8ec": "8a798890fe93", "565ddc6f1aa2": "8a798890fe93", "eb9f9da292bd": "8a798890fe93",
    },
    "public/ethics_justice": {
        "58610abd5ba7": "53bc5c9386ea", "7a2584f10a2c": "9367538f4724", "00758d04c4c7": "53bc5c9386ea",
        "0019c9d83139": "53bc5c9386ea", "9aa3c126b3ea": "53bc5c9386ea", "24064653d383": "9367538f4724",
    },
    "public/ethics_virtue": {
        "237fbb2e79e5": "9390298f3fb0", "3a76c92e8a4d": "8a798890fe93", "e35315cbff68": "9390298f3fb0",
        "8c58b4f3af61": "9390298f3fb0", "9eb9bda007da": "9390298f3fb0", "1e97e4cc1445": "8a798890fe93",
    },
    "public/moral_stories": {
        "bdfbc89c1f06": "49211e647697", "84197140358c": "efec1f9c59d0", "ea712df50c40": "27b306f7f02b",
        "e56081de7b0b": "265d732a5736", "0ae93adfc9d2": "fa5884f34770", "67b294602de1": "be196cfbe299",
    },
    "public/confaide_tier1": {
        "a0c03b6ae10f": "d4735e3a265e", "ee489c3c24b3": "4e07408562be", "73d5959f4472": "4b227777d4dd",
        "9fadc5c7dd74": "d4735e3a265e", "8251065d7d5f": "4e07408562be", "5ea03771ac23": "d4735e3a265e",
    },
    "public/confaide_tier2a": {
        "70ee48b87d8f": "2fb999c7eb9f", "8590e4896fa6": "5feceb66ffc8", "7e456e90e7d5": "b96b30366327",
        "48d0d8cb6785": "1a6562590ef1", "8f4a25eb2184": "2fb999c7eb9f", "08bda904cdda": "5feceb66ffc8",
    },
    "public/confaide_tier2b": {
        "eeb5cc6208dd": "5feceb66ffc8", "9dfe132457fc": "2fb999c7eb9f", "e2f03eefb325": "b96b30366327",
        "d5512908e029": "1a6562590ef1", "f6a3ec3f9823": "5feceb66ffc8", "e1e6a90bfa53": "2fb999c7eb9f",
    },
    "public/confaide_tier3_control": {
        "46970336c9fb": "1ea442a134b2", "c25f2bf47e0d": "1ea442a134b2", "0b023ec24977": "1ea442a134b2",
        "aae0f2d70fd1": "1ea442a134b2", "03b23f45e82b": "1ea442a134b2", "585c75206fd6": "1ea442a134b2",
    },
    "public/privacylens": {
        "0dbc7dc6fb4a": "1ea442a134b2", "d090cf33ffdb": "1ea442a134b2", "aa085258e2eb": "1ea442a134b2",
        "0f0b255fa655": "1ea442a134b2", "832d570fba5b": "1ea442a134b2", "a13e012b5b8c": "1ea442a134b2",
    },
    "public/advglue": {
        "9495e20cb85e": "456cf73c569b", "59bc2d6c9b4e": "456cf73c569b", "2670776bd994": "9390298f3fb0",
        "d4e575fee3b3": "afa6e9ab3ac6", "975ef99cee4e": "8a798890fe93", "16d3c8394982": "9390298f3fb0",
    },
    "public/dt_styles": {
        "dbe221b8984f": "afa6e9ab3ac6", "f27d29c35562": "09f04951af4c", "6d4bcbea6c7b": "afa6e9ab3ac6",
        "459df6ad3047": "afa6e9ab3ac6", "c9ef521267ad": "09f04951af4c", "4b340784d643": "afa6e9ab3ac6",
    },
    "public/realtimeqa_2020": {
        "b023f4e51189": "bf329c0aec3a", "0c170cdc707d": "639f14d2a6fc", "3403d8251d12": "c6001a65c2ab",
        "a98fd6d760dd": "e806a291cfc3", "c7628d8ea794": "b8db85315b3f", "1021500c20f2": "1bc3201a9f24",
    },
    "public/gsm8k": {
        "af09f9233a32": "9400f1b21cb5", "1e9817a7409d": "a21855da08cb", "54abb6404ee7": "dac53c17c250",
        "88b7aae0175c": "9f006addc898", "e8c51eceaa05": "434a7e656c53", "399a5bf485d3": "ef2d127de37b",
    },
}  # fmt: skip
