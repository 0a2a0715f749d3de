//! Country codes, as far as addresses need them. An address stores its country as a text, so that a stored address
//! stays readable when ISO withdraws the code.

/// The officially assigned codes of ISO 3166-1 alpha-2 (249 of them; ISO Online Browsing Platform, also `iso3166.tab`
/// of the IANA time zone database). User-assigned codes such as `XK` and `ZZ`, and reserved ones such as `UK`, are not
/// included.
const ASSIGNED: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ \
     CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO \
     FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE \
     JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO \
     MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW \
     PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM \
     TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Countries and territories whose addresses have no postal code: those whose address format in the data of Google's
/// libaddressinput has none (`fmt` without `%Z`, <https://chromium-i18n.appspot.com/ssl-address>).
const WITHOUT_POSTAL_CODES: &str = "AE AG AO AQ AW BF BI BJ BO BQ BS BV BW BZ CD CF CG CI CK CM CW DJ DM ER FJ GA GD GH GM GQ GY HK JM KI KM KN LC \
     LY ML MO MR MS MW NR NU PA PS QA RW SB SC SL SR SS ST SX SY TD TF TG TK TL TO TT TV UG VU WS YE ZW";

/// Returns whether `code` is an officially assigned code of ISO 3166-1 alpha-2, in upper case.
pub fn is_assigned(code: &str) -> bool {
    contains(ASSIGNED, code)
}

/// Returns whether addresses in the country with this code have a postal code; true for codes that are not assigned.
pub fn has_postal_codes(code: &str) -> bool {
    !contains(WITHOUT_POSTAL_CODES, code)
}

fn contains(table: &str, code: &str) -> bool {
    table.split(' ').any(|known| known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_each_assigned_code_once() {
        let codes: Vec<&str> = ASSIGNED.split(' ').collect();
        assert_eq!(codes.len(), 249);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "sorted, each once");
        assert!(codes.iter().all(|code| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase())));
        let user_assigned = |code: &str| {
            let (first, second) = code.split_at(1);
            ["AA", "ZZ"].contains(&code) || first == "X" || (first == "Q" && second >= "M")
        };
        assert!(!codes.iter().any(|code| user_assigned(code)));
    }

    #[test]
    fn unassigned_code_is_rejected() {
        for code in [
            "ZZ", "AA", "QM", "QZ", "XA", "XK", "XZ", "UK", "EU", "SU", "AN", "nl", "NLD", "N", "", " ",
            "NL NO",
        ] {
            assert!(!is_assigned(code), "{code}");
        }
        for code in ["NL", "AD", "ZW", "QA", "GB", "SS", "TW"] {
            assert!(is_assigned(code), "{code}");
        }
    }

    #[test]
    fn countries_without_postal_codes_are_assigned() {
        assert!(WITHOUT_POSTAL_CODES.split(' ').all(is_assigned));
        for (code, has) in
            [("HK", false), ("AE", false), ("PA", false), ("NL", true), ("IE", true), ("US", true)]
        {
            assert_eq!(has_postal_codes(code), has, "{code}");
        }
    }
}
