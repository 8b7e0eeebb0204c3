"""What the capitals of Jane Austen's novels don't tell: which names are places, and which words are no names."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TITLES = _words("""
    Admiral Aunt Captain Colonel Cousin Doctor Dowager Dr General Governor Lady Lieutenant Lord Major Miss Misses Mr
    Mrs Nurse Sir Sister Uncle Viscountess
""")
# A capitalised word before one of these is part of a place's name.
PLACE_TAILS = _words("""
    Abbey Buildings Castle Common Cottage Court Crescent Grove Hall Hill House Lodge Magna Mill Park Parsonage Place
    Regis Row Square Street Wood Woods
""")
PLACES = _words("""
    Abbey-Mill Abbeyland Allenham America Antigua Asia Avignon Bahama Bakewell Banbury Barnet Barton Bath Bedford
    Beechen Bermuda Birmingham Blenheim Bond-street Box Brighton Bristol Britain Broadway Brockham Bromley Brunswick
    Cambridge Camden Charmouth Chatsworth Cheapside Cheltenham Cheshire Clapham Claverton Cleveland Clifton Cobb
    Cobham Combe Compton Cornwall Crewkherne Cromer Croydon Cumberland Dartford Dawlish Delaford Derbyshire Devizes
    Devonshire Donwell Dorking Dorsetshire Dovedale Dublin Ecclesford Edinburgh England Enscombe Epsom Eton Europe
    Everingham Exeter France Fullerton Gibraltar Gloucester Gloucestershire Gretna Grosvenor Hanover Hartfield
    Hatfield Hereford Herefordshire Hertfordshire Highbury Holborn Holburn Honiton Hunsford Huntingdon India Indies
    Ireland Italy Kellynch Kenilworth Kensington Kent Keynsham Kingham Kingston Kingsweston Kympton Lacey Lambton
    Langham Lansdown Leicestershire Lisbon Liverpool London Longbourn Longstaple Longtown Lyme Madeira Mansfield
    Matlock Mediterranean Meryton Mickleham Minehead Monkford Netherfield Newbury Newcastle Newfoundland Newmarket
    Newton Norfolk Norland Northampton Northamptonshire Northanger Oakham Oxford Pemberley Peterborough Pinny
    Plymouth Portsmouth Pulteney Putney Pyrenees Ramsgate Randalls Richmond Rosings Russia Salisbury Scarborough
    Scotland Shropshire Sicily Sidmouth Somerset Somersetshire Sotherton Spithead Staffordshire Stanhill Stilton
    Stoke Surrey Surry Sussex Swisserland Switzerland Taunton Tetbury Texel Thames Thornton Trafalgar Tunbridge
    Tuscany Twickenham Uppercross Venice Walcot Wales Warwick Wells Westerham Westgate Westminster Weymouth Whitwell
    Wight Wiltshire Windsor Winthrop Woodston Woolwich Yarmouth York Yorkshire
""")
# Capitalised, and no name of a person or a place: times, peoples, books, ships, offices.
OTHER = _words("""
    Abydos Admiralty Agricultural Alps Antwerp April Asp Assembly Atlantic August Baron Baronetage Baronne Belinda
    Belle Belmont Bishop Bride Bridge British Broadwood Camilla Canopus Cape Captains Casino Cassino Cassiopeia
    Chapter Christian Christians Christmas Cleopatra Clermont Cliff Commerce Commons Cottager Count Courier Crown
    December Douglas Drury Duchess Duke East Easter Elephant Endymion English Englishman Esq Esquire Extracts
    February Finis Forest French Frenchwoman Friday Gamester German Giaour God Gothic Gowland Grappler Grecian Green
    Hamlet Hart Heaven Hon Hymen Idler Impudence Indian Irish Isle Italian January Jew Jove July June Laconia Lake
    Lakes Lane Latin Lords Lovers Macbeth Magdalen Majesty Mall Manager March Marmion Marquis May Methodists
    Michaelmas Midsummer Mirror Monday Monk Mount Mysteries Navy Necromancer Night North November Octagon October
    Oriel Orphan Othello Pall Parliament Patroness Petty Philippics Post Prince Providence Pug Pump Quarterly
    Rambler Reports Rev Reviews Rhine Roman Room Rooms Rumford Saturday Scotch Scottish Sept September Shylock
    Signet Somebody South Spanish Spectator Speculation St Streights Sultaness Sunday Sundays Temple Thrush Thursday
    Tirocinium Tower Tuesday Twelfth Udolpho University Vicarage Vingt Vol Volume Vows Warnings Wednesday West Writ
""")
